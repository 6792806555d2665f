# The book and its tests need Python 3.10 or newer and make. Everything else goes into .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PARALLEL := -n 2 --dist loadscope --no-loadscope-reorder
COVERAGE :=
NUMERICAL := tests/test_lti.py tests/test_discretize.py tests/test_convolution.py tests/test_rnn.py tests/hippo
PAGE := _build/html/index.html
CHAPTER := discretization
TEXFLAGS := -silent -interaction=nonstopmode -halt-on-error

.PHONY: help book live need-tex pdf colab alone test coverage oldest browser notebooks address lint types clean

help:  ## list these targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

book: $(READY)  ## build the book; prints the path of the page to open
	$(BIN)/jupyter-book build . -n -W --keep-going
	@echo "Open $(CURDIR)/$(PAGE)"

need-tex:
	@sh tools/need_tex.sh

pdf: need-tex $(READY)  ## set the book on paper; needs TeX, and says what to install if it is missing
	$(BIN)/jupyter-book build . -n -W --keep-going --builder latex
	$(MAKE) -C _build/latex LATEXMKOPTS="$(TEXFLAGS)" all-pdf
	@echo "Open $(CURDIR)/_build/latex/ssm-book.pdf"

# The book offers the same notebooks for download, where it has been built.
colab: $(READY)  ## write the notebooks for Colab and Binder, into _build/notebooks
	$(BIN)/jupyter-book build . -n -W --keep-going --builder custom --custom-builder notebooks
	if [ -d _build/html/_sources ]; then cp -R _build/notebooks/book _build/html/_sources/; fi

live: $(READY)  ## put Pyodide beside the book: live code then fetches nothing from elsewhere
	$(BIN)/python tools/pyodide.py

alone: colab  ## run one of them in a fresh environment; CHAPTER=mamba WITH=torch for another
	$(BIN)/python tools/alone.py $(CHAPTER) $(WITH)

# A process for each of two cores: a second thread in each would wait for the first one's core.
test: export OMP_NUM_THREADS := 1
test: $(READY)  ## unit tests, then every notebook against its stored outputs
	$(BIN)/pytest $(PARALLEL) $(COVERAGE) tests
	$(BIN)/pytest --nbval $(PARALLEL) book

coverage: $(READY)  ## the same tests, and which lines of the library they reach
	$(MAKE) test COVERAGE="--cov --cov-report=term"

oldest:  ## the NumPy part with the oldest versions of NumPy and SciPy that are supported
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/pip install --quiet packaging
	.venv-oldest/bin/pip install --quiet $$(.venv-oldest/bin/python tools/oldest.py) hypothesis pytest
	.venv-oldest/bin/python -m pytest -q -o addopts=--import-mode=importlib $(NUMERICAL)

browser: $(READY)  ## open the built book in Chromium, as `make test` does where both are there
	BROWSER_TESTS=required $(BIN)/pytest $(PARALLEL) tests/browser

notebooks: $(READY)  ## run the chapters and store their outputs; CHAPTERS="rnn hippo" for some
	$(BIN)/python tools/notebooks.py $(CHAPTERS)

address: $(READY)  ## README, package, citation and first cells follow the address in _config.yml
	$(BIN)/python tools/address.py

lint: $(READY)  ## style of the Python files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)  ## do the types of the library agree with each other?
	$(BIN)/mypy

clean:  ## remove the built book and the environment
	rm -rf _build $(VENV) .venv-oldest

$(READY): requirements.txt pyproject.toml tools/environment.sh
	sh tools/environment.sh $(PYTHON) $(VENV)
	touch $@
