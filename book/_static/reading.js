/* Aids to reading a long page: how far one has come, in which section one is, and code out of sight. */
(() => {
  const root = document.documentElement;

  function codeButton(button) {
    const hidden = () => root.dataset.code === "hidden";
    const name = () => { button.textContent = hidden() ? "Show all code" : "Hide all code"; };
    button.addEventListener("click", () => {
      if (hidden()) delete root.dataset.code;
      else root.dataset.code = "hidden";
      localStorage.setItem("code", hidden() ? "hidden" : "shown");
      name();
    });
    name();
  }

  // The entry of the contents whose section is at the top of the window; the theme marks nothing
  // after a link to an equation or a figure.
  function follower(contents) {
    const links = [...contents.querySelectorAll('a[href^="#"]')];
    const sections = links.map((link) => document.getElementById(decodeURIComponent(link.hash.slice(1))));
    return () => {
      const passed = sections.filter((section) => section && section.getBoundingClientRect().top < 0.3 * innerHeight);
      const here = passed.length ? links[sections.indexOf(passed.at(-1))] : null;
      if (here?.ariaCurrent === "true") return;
      for (const entry of contents.querySelectorAll(".active")) entry.classList.remove("active");
      for (const link of links) link.removeAttribute("aria-current");
      here?.setAttribute("aria-current", "true");
      for (let entry = here; entry && entry !== contents; entry = entry.parentElement) {
        if (entry.matches("a, .toc-entry")) entry.classList.add("active");
      }
    };
  }

  function progressBar() {
    const bar = document.createElement("div");
    bar.className = "reading-progress";
    document.body.append(bar);
    return () => {
      const way = root.scrollHeight - innerHeight;
      bar.style.transform = `scaleX(${way > 0 ? Math.min(1, scrollY / way) : 0})`;
    };
  }

  // Who scrolls up may want the top. The theme's own rule takes each move of the page for an intention,
  // also one that makes room for a formula: then the page has grown and moves down.
  function backToTop() {
    let turn = 0, height = 0;
    return () => {
      if (Math.abs(scrollY - turn) < 80) return;
      const up = scrollY < turn, grown = root.scrollHeight > height;
      [turn, height] = [scrollY, root.scrollHeight];
      if (up || !grown) root.toggleAttribute("data-goes-up", up && scrollY > innerHeight);
    };
  }

  // A preview is placed when it opens; a formula in it is set later, and it would reach out of the window.
  function placePreviewsAgain() {
    window.tippy?.setDefaultProps({
      onCreate(preview) {
        const place = () => preview.popperInstance?.update();
        new ResizeObserver(place).observe(preview.popper.firstElementChild);
      },
    });
  }

  // Paper is white: a dark page is printed in light colours, and is dark again afterwards.
  function printInLightColours() {
    let theme;
    addEventListener("beforeprint", () => {
      theme = root.dataset.theme;
      root.dataset.theme = "light";
    });
    addEventListener("afterprint", () => { root.dataset.theme = theme; });
  }

  addEventListener("DOMContentLoaded", () => {
    placePreviewsAgain();
    printInLightColours();
    document.querySelectorAll(".chapter-head .hide-code").forEach(codeButton);
    const contents = document.getElementById("pst-page-toc-nav");
    const updates = [progressBar(), backToTop(), ...(contents ? [follower(contents)] : [])];
    let waiting = false;
    const update = () => {
      if (waiting) return;
      waiting = true;
      requestAnimationFrame(() => {
        waiting = false;
        for (const step of updates) step();
      });
    };
    for (const event of ["scroll", "resize", "hashchange"]) addEventListener(event, update, {passive: true});
    update();
  });
})();
