"""Commands of `richsem-train`, one a file; `richsem_train.cli` registers them."""
