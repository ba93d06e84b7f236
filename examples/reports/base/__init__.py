"""What the five reports share: data, model, trial, run, table, figure."""
