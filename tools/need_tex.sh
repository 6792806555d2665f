#!/bin/sh
# Is there a TeX installation that can set the book? If not, say what to install.
missing=
for program in latexmk xelatex xindy; do
    command -v "$program" >/dev/null 2>&1 || missing="$missing $program"
done
if [ -z "$missing" ]; then
    for file in fncychap.sty pgfplots.sty polyglossia.sty ucharclasses.sty unicode-math.sty FreeSerif.otf; do
        kpsewhich "$file" >/dev/null || missing="$missing $file"
    done
fi
[ -z "$missing" ] && exit

echo "The PDF needs TeX, and this is missing:$missing

Debian and Ubuntu (about 620 MB):
    sudo apt-get install --no-install-recommends latexmk xindy texlive-xetex \\
        texlive-latex-extra texlive-fonts-recommended fonts-freefont-otf
macOS: MacTeX. Windows: TeX Live. Both come with everything that is needed." >&2
exit 1
