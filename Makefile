# make demo and make test set everything up by themselves; see `make help`.

PYTHON ?= python3
VENV := .venv
# The accelerator that was installed last, else the CPU alone.
ACCEL ?= $(or $(shell cat $(VENV)/.accel 2>/dev/null),cpu)
BIN := $(VENV)/bin
LLAMA_CPP := $(shell sed -n 's/.*"\(llama-cpp-python==[^"]*\)".*/\1/p' pyproject.toml)
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/llamacli
NAMED := $(subst ==,-,$(subst llama-cpp-python,llama_cpp_python,$(LLAMA_CPP)))
BUILT := $(shell cat $(VENV)/.build 2>/dev/null)

# Multimodal code and llama.cpp's tools are left out: 83 objects instead of 193.
FLAGS_all := -DGGML_RPC=on -DLLAVA_BUILD=off
FLAGS_cpu :=
FLAGS_metal := -DGGML_METAL=on
FLAGS_cuda := -DGGML_CUDA=on
FLAGS_vulkan := -DGGML_VULKAN=on
ifeq ($(filter $(ACCEL),cpu metal cuda vulkan),)
$(error ACCEL is $(ACCEL); choose cpu, metal, cuda or vulkan)
endif

# One compiled wheel per accelerator and set of flags: pip's own cache knows no flags. WHEEL=FILE takes
# one that was compiled elsewhere, and stays until an accelerator is named.
ifneq ($(WHEEL),)
BUILD := wheel-$(shell cksum < "$(WHEEL)" | cut -d' ' -f1)
else ifneq ($(and $(filter wheel-%,$(BUILT)),$(filter file,$(origin ACCEL))),)
BUILD := $(BUILT)
else
BUILD := $(ACCEL)-$(shell (echo '$(FLAGS_all) $(FLAGS_$(ACCEL))'; cat llama.cpp.cmake) | cksum | cut -d' ' -f1)
endif
WHEELS := $(CACHE)/wheels/$(BUILD)
LOG := $(WHEELS)/compile.log

# The package comes as source alone, which is unpacked where it stays: what was compiled before an
# interrupt isn't compiled again, and ccache, which llama.cpp takes by itself, knows it by its place.
# ninja's counter, [done/all], is shown while the compiler works, with the time that is left.
define compile_llama_cpp
mkdir -p "$(WHEELS)/part"; \
echo "compiling $(LLAMA_CPP) for $(ACCEL), this once: 2 to 5 minutes (log: $(LOG))" >&2; \
test -d "$(WHEELS)/$(NAMED)" || { \
  $(BIN)/pip download --quiet --no-deps --disable-pip-version-check --no-cache-dir --dest "$(WHEELS)/part" \
    --require-hashes -r llama-cpp-python.lock && tar -xzf "$(WHEELS)/part/$(NAMED).tar.gz" -C "$(WHEELS)/part" \
    && mv "$(WHEELS)/part/$(NAMED)" "$(WHEELS)"; } || exit 1; \
CMAKE_ARGS="$(FLAGS_all) -DCMAKE_PROJECT_llama.cpp_INCLUDE=$(CURDIR)/llama.cpp.cmake $(FLAGS_$(ACCEL)) $$CMAKE_ARGS" $(BIN)/pip wheel -v --no-deps --disable-pip-version-check \
  --no-cache-dir --wheel-dir "$(WHEELS)/part" --config-settings=build-dir="$(WHEELS)/objects" "$(WHEELS)/$(NAMED)" 2>&1 \
  | tee "$(LOG)" | awk '$(show_counter)' >&2; \
mv "$(WHEELS)"/part/$(NAMED)-*.whl "$(WHEELS)" 2>/dev/null \
  || { tail -n 20 "$(LOG)" >&2; echo "the compilation failed; all of its output is in $(LOG)" >&2; exit 1; }; \
rm -rf "$(WHEELS)/part" "$(WHEELS)/objects" "$(WHEELS)/$(NAMED)"
endef
define show_counter
function now() { srand(); return srand() } \
match($$0, /\[[0-9]+\/[0-9]+\]/) { \
  split(substr($$0, RSTART + 1, RLENGTH - 2), n, "/"); \
  if (!begun) { begun = now(); first = n[1] } \
  left = n[1] > first ? int((now() - begun) * (n[2] - n[1]) / (n[1] - first)) : 0; \
  printf "\r[%d/%d]%s   ", n[1], n[2], left ? sprintf(" about %d:%02d left", left / 60, left % 60) : ""; fflush() \
} \
END { print "" }
endef

# Another build than the one that is installed replaces it.
ifneq ($(BUILD),$(BUILT))
$(VENV)/.installed: replace
endif

# All that is installed is in these files with its hashes, but for llama.cpp, whose source is checked
# before it is compiled. `make lock` writes them anew.
LOCKED := $(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r
UV := uvx uv pip compile --quiet --universal --generate-hashes --no-annotate --custom-compile-command "make lock"

.DEFAULT_GOAL := help
.PHONY: replace help install demo test test-systems fuzz audit lock test-parity lint bench clean

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "  make %-12s %s\n", $$1, $$2}'

install: $(VENV)/.installed ## Set up .venv (ACCEL=cpu, metal, cuda or vulkan: llama.cpp is compiled once; or WHEEL=FILE)

replace:

$(VENV)/.installed: pyproject.toml requirements.lock models.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "llamacli needs Python 3.11 or newer; set PYTHON=…" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@case "$(notdir $(WHEEL))" in "" | $(NAMED)-*.whl) ;; *) echo "WHEEL must be one of $(LLAMA_CPP)" >&2; exit 1;; esac
	@$(if $(filter wheel-%,$(BUILD)),true,ls "$(WHEELS)"/$(NAMED)-*.whl >/dev/null 2>&1) || { $(compile_llama_cpp); }
	@echo "installing llamacli and what it needs into $(VENV)" >&2
	@test "$(BUILT)" = "$(BUILD)" || $(BIN)/pip install --quiet --disable-pip-version-check --force-reinstall --no-deps \
	  $(if $(WHEEL),"$(WHEEL)","$(WHEELS)"/$(NAMED)-*.whl)
	@$(LOCKED) requirements.lock
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -e . && $(BIN)/pip check --disable-pip-version-check >/dev/null
	@echo "$(ACCEL)" > $(VENV)/.accel && echo "$(BUILD)" > $(VENV)/.build
	@touch $@

$(VENV)/.tested: $(VENV)/.installed requirements-test.lock
	@echo "installing what the tests need" >&2
	@$(LOCKED) requirements-test.lock
	@touch $@

# Python's own cache is written, whatever the user has it do elsewhere: the tests start a thousand programs.
COMPILED := PYTHONDONTWRITEBYTECODE=

demo: $(VENV)/.installed ## Convert the built-in demo checkpoint, ask it, and pipe to it
	@demo/show $(BIN)/llamacli

test: $(VENV)/.tested ## Run the tests, two more at once than there are cores (WORKERS=1: one by one)
	@$(COMPILED) $(BIN)/python -m pytest --numprocesses $(or $(WORKERS),auto) --dist loadscope --no-loadscope-reorder

test-systems: $(VENV)/.tested ## Run the tests as macOS and as Windows would have them, stood in for on Linux
	@for system in macos:utf-8 windows:cp1252; do echo "$${system%:*}" >&2; $(COMPILED) LLAMACLI_SYSTEM=$${system%:*} \
	  PYTHONPATH="$(CURDIR)/tests/standins/systems" PYTHONIOENCODING=$${system#*:} $(BIN)/python -m pytest \
	  --numprocesses $(or $(WORKERS),auto) --dist loadscope --no-loadscope-reorder $(TESTS) || exit 1; done

fuzz: $(VENV)/.tested ## Read 10,000 hostile files of each kind (COUNT=…, KINDS="gguf session …")
	@$(BIN)/python -m tests.fuzz --count $(or $(COUNT),10000) $(KINDS)

audit: $(VENV)/.tested ## Look the locked dependencies up among known vulnerabilities (needs the network)
	@$(BIN)/pip install --quiet --disable-pip-version-check pip-audit
	@for lock in requirements.lock requirements-test.lock llama-cpp-python.lock; do $(BIN)/pip-audit --strict --disable-pip --require-hashes -r $$lock || exit 1; done

lock: ## Choose the newest dependencies and write the lock files (needs uv)
	@$(UV) --upgrade --python-version 3.11 --extra fast --extra serve --extra mcp --no-emit-package llama-cpp-python -o requirements.lock pyproject.toml
	@$(UV) --upgrade --python-version 3.11 --all-extras --no-emit-package llama-cpp-python -c requirements.lock -o requirements-test.lock pyproject.toml
	@echo "$(LLAMA_CPP)" | $(UV) --upgrade --no-deps --no-binary llama-cpp-python -o llama-cpp-python.lock -

test-parity: $(VENV)/.tested ## Compare logits with transformers live (installs PyTorch's CPU build)
	@$(BIN)/pip install --quiet --disable-pip-version-check "torch==2.13.0" "sentencepiece==0.2.3" "peft==0.21.2"
	@$(BIN)/python -m pytest tests/parity

lint: $(VENV)/.tested ## Check style, and types as each system has them
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .
	@for system in linux darwin win32; do $(BIN)/mypy --platform $$system --cache-dir .mypy_cache/$$system || exit 1; done

bench: $(VENV)/.tested ## Measure, side by side with llama.cpp's own tools, into docs/
	@$(BIN)/python -m bench

clean: ## Remove the virtual environment and caches of tools (the compiled wheel stays)
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
