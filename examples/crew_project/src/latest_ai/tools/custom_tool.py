from pathlib import Path

from crewai.tools import BaseTool
from pydantic import BaseModel, Field

NOTES = Path(__file__).parents[3] / "knowledge" / "notes.txt"


class SearchNotesInput(BaseModel):
    """Input schema for SearchNotes."""

    word: str = Field(..., description="The word to look for.")


class SearchNotes(BaseTool):
    name: str = "search_notes"
    description: str = "Give all lines of the notes that contain a word."
    args_schema: type[BaseModel] = SearchNotesInput

    def _run(self, word: str) -> str:
        lines = NOTES.read_text().splitlines()
        return "\n".join(line for line in lines if word.lower() in line.lower())
