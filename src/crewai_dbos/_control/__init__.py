"""What `Control` does about runs: rows in, plain values out. Nothing here imports crewAI."""
