# The book and its tests need Python 3.10 or newer and make. Everything else goes into .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PARALLEL := -n 2 --dist loadscope
PAGE := _build/html/index.html

.PHONY: help book test notebooks lint clean

help:  ## list these targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

book: $(READY)  ## build the book; prints the path of the page to open
	$(BIN)/jupyter-book build . -n -W --keep-going
	@echo "Open $(CURDIR)/$(PAGE)"

test: $(READY)  ## unit tests, then every notebook against its stored outputs
	$(BIN)/pytest $(PARALLEL) tests
	$(BIN)/pytest --nbval $(PARALLEL) book

notebooks: $(READY)  ## run the chapters and store their outputs; CHAPTERS="rnn hippo" for some
	$(BIN)/python tools/notebooks.py $(CHAPTERS)

lint: $(READY)  ## style of the Python files
	$(BIN)/ruff check .

clean:  ## remove the built book and the environment
	rm -rf _build $(VENV)

$(READY): requirements.txt pyproject.toml tools/environment.sh
	sh tools/environment.sh $(PYTHON) $(VENV)
	touch $@
