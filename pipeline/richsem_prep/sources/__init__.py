"""Where pictures come from: each source lists what a dataset holds and reads one picture's bytes."""
