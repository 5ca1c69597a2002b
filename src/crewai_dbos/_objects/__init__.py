"""Parts of an agent whose calls are recorded: LLM, tools, memory, callbacks."""
