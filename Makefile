# make book: install, execute, build the site.   make test: everything that is claimed, checked.
# All work happens in .venv, nothing needs root, and no data is downloaded.

PYTHON ?= python3
PORT ?= 8000
VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.package-installed
CHAPTERS := $(sort $(wildcard book/*.ipynb))
NBVAL := --nbval --nbval-sanitize-with tests/nbval_sanitize.cfg --nbval-cell-timeout 180 --nbval-kernel-startup-timeout 120

# One thread a process: the numbers in the notebooks do not depend on the machine's cores, and parallel tests share them.
export OMP_NUM_THREADS := 1
export OPENBLAS_NUM_THREADS := 1
export MKL_NUM_THREADS := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYDEVD_DISABLE_FILE_VALIDATION := 1

.PHONY: book test check lab serve site lint html nbval unit notebooks venv clean distclean force
.NOTPARALLEL:
.DELETE_ON_ERROR:

book: html
	@echo "The book is built. Open: file://$(CURDIR)/_build/html/index.html   (or: make serve)"

# --- environment -------------------------------------------------------------------------------------------------

venv: $(READY)

$(PY):
	@command -v $(PYTHON) >/dev/null 2>&1 || \
	  { echo "make: no '$(PYTHON)' on this machine; install Python 3.11 or newer, or name one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "make: $(PYTHON) is too old ($$($(PYTHON) -V 2>&1)); samlib needs 3.11 or newer: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
	  { echo "make: $(PYTHON) has no venv module; install it (Debian and Ubuntu: apt install python3-venv)" >&2; exit 1; }
	@echo "Creating $(VENV) with $$($(PYTHON) -V)"
	@$(PYTHON) -m venv --clear $(VENV)

$(VENV)/.requirements-installed: requirements.txt | $(PY)
	@echo "Installing the pinned requirements into $(VENV) (minutes the first time: PyTorch is large)"
	@$(PY) -m pip install --quiet -r requirements.txt
	@touch $@

$(READY): pyproject.toml $(VENV)/.requirements-installed
	@$(PY) -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

# --- the book ----------------------------------------------------------------------------------------------------

# The execution cache compares cells only. stale.py also looks at samlib, the records and the site's own parts, deletes
# what they outdate, and rewrites this key only when something changed.
build/execution.key: $(READY) force
	@$(PY) book/_ext/stale.py

# After a failure Sphinx would not repeat the warnings of pages that it has already read, so it must read them again.
html: $(READY) build/execution.key
	@echo "Building the book (progress: build/book.log)"
	@$(PY) book/_ext/execute.py --cache _build/.jupyter_cache $(CHAPTERS) > build/execution.log 2>&1
	@$(VENV)/bin/jupyter-book build book --config _config.yml --toc $(CURDIR)/_toc.yml --path-output . -W --keep-going \
	  > build/book.log 2> build/book.err; status=$$?; \
	  grep -v 'KeyboardInterrupt caught in kernel' build/book.err >&2; \
	  [ $$status = 0 ] || { rm -rf _build/.doctrees; \
	    echo "make: the book has warnings or a failing notebook; see above" >&2; exit 1; }

# Executes the chapters in place and stores their outputs: after editing a chapter, before committing it.
notebooks: $(READY)
	$(PY) book/_ext/execute.py $(or $(NB),$(CHAPTERS))

lab: $(READY)
	$(PY) -m jupyterlab book

serve: html
	@echo "http://127.0.0.1:$(PORT)/  (Ctrl+C ends it)"
	@$(PY) -m http.server $(PORT) --bind 127.0.0.1 --directory _build/html

# Built into an empty folder, so that nothing of an older build slips in. Opens from file:// or any static host.
site: $(READY)
	@rm -rf _build/html _build/.doctrees _build/jupyter_execute
	@$(MAKE) --no-print-directory html
	@$(PY) -c "import shutil; print('Wrote', shutil.make_archive('dist/hallucinated-minimizers', 'zip', '_build/html'))"

# --- checks ------------------------------------------------------------------------------------------------------

# The unit tests come after the build, because the browser tests read the built site.
test: lint html nbval unit

# The fast half, for the time between two edits: nothing is built, no browser, no test of a second or more.
check: lint
	$(PY) -m pytest -n 2 -q -m "not slow" tests/unit tests/evidence

lint: $(READY)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	@$(VENV)/bin/lint-imports --no-cache --no-logo

nbval: build/nbval.passed

# Re-executes every chapter and compares its text outputs with the committed ones; again only when a chapter, samlib
# or a record has changed.
build/nbval.passed: $(CHAPTERS) tests/nbval_sanitize.cfg build/execution.key
	$(if $(CHAPTERS),$(PY) -m pytest -n 2 --dist loadfile -q $(NBVAL) $(CHAPTERS),@echo "no chapters yet")
	@touch $@

# The browser tests of the site take as long as all others together: started first, they fill one of the two workers.
unit: $(READY)
	@mkdir -p build
	$(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder tests/site/test_site.py tests --junitxml build/junit.xml
	@if [ -f book/ledger/claims.py ] && [ -f book/claims.yml ]; then $(PY) -m samlib claims --check build/junit.xml; fi

clean:
	rm -rf _build build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

distclean: clean
	rm -rf $(VENV)

force:
