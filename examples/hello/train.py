"""The smallest experiment: one metric, a hundred steps."""

import incl

for step in range(100):
    incl.log({"loss": 1 / (step + 1)}, step=step)
print("hello from", incl.experiment_id)
