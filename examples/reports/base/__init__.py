"""What the five reports share: data, model, trial, comparison, run, table, figure."""
