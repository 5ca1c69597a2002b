"""What is written to the database, and how: names, values and errors as JSON."""
