"""Commands of `richsem-prep`, one a file; `richsem_prep.cli` registers them."""
