"""What a run asks of people: how it waits for them, and how it is left to its row meanwhile."""
