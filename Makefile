# cluster-up / cluster-down: one Ray head for this checkout, on loopback. PORT: its dashboard and job submission.
PYTHON ?= .venv/bin/python
PORT ?= 8265
RAY = $(dir $(PYTHON))ray
DEMO_NAME ?= demo-$(shell date +%Y%m%d-%H%M%S)

.PHONY: cluster-up cluster-down demo clean

cluster-up:
	@$(PYTHON) -m l2l_ray.actors.head up $(PORT)

cluster-down:
	@$(PYTHON) -m l2l_ray.actors.head down

# The cluster goes down whatever happens to the job; `make` ends with the job's exit code.
demo:
	@$(PYTHON) -m l2l_ray.actors.head up $(PORT)
	@trap '$(PYTHON) -m l2l_ray.actors.head down' EXIT INT TERM; \
	$(RAY) job submit --address http://127.0.0.1:$(PORT) -- \
	python jobs/selfevolve.py --name $(DEMO_NAME) --compare '["supervised","fixed_threshold"]'

clean:
	@$(PYTHON) -m l2l_ray.actors.head down 2>/dev/null || true
	rm -rf .ray .mypy_cache .ruff_cache .pytest_cache .hypothesis
