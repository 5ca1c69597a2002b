"""What the package costs, beside what people would use without it. Run by `make bench`."""
