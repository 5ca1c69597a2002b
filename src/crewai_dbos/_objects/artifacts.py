"""Large tool results that crewAI puts aside: under a name that is the same after a crash."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from crewai.utilities.tool_result_artifacts import ToolResultArtifact, ToolResultArtifactStore

from crewai_dbos._classes import overrides
from crewai_dbos._crewai_seam.agent import artifacts_kept
from crewai_dbos._stored.digest import short


@overrides(ToolResultArtifactStore)
class StableArtifacts(ToolResultArtifactStore):
    """A store whose paths, which reach the prompt, are not drawn by chance.

    There is one for every execution with a tool, so its folder is made with the first result. Only
    its owner may read what is in it.
    """

    def __init__(self) -> None:
        self._made = False

    def store(self, content: str, estimated_token_count: int) -> ToolResultArtifact:
        """As the original's, under a name made of the order and the content."""
        if not self._made:
            super().__init__()
            self._made = True
        artifact = super().store(content, estimated_token_count)
        artifact.file_path.chmod(0o600)
        name = f"tool-result-{len(artifacts_kept(self))}-{short(content)}"
        folder = artifact.file_path.parent.rename(artifact.directory / name)
        return replace(
            artifact,
            artifact_id=name,
            relative_path=Path(name) / artifact.file_path.name,
            file_path=folder / artifact.file_path.name,
        )

    def cleanup(self) -> None:
        """As the original's."""
        if self._made:
            super().cleanup()
