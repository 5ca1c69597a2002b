"""An example of each command, as its help shows it."""

from __future__ import annotations

_EXAMPLES = {
    "worker": "crewai-dbos worker app --db-url postgresql://support@db/support --version 7",
    "serve": "crewai-dbos serve --db-url sqlite:///app.sqlite --port 8080",
    "migrate": "crewai-dbos migrate --db-url postgresql://owner@db/support --app-role support",
    "workers": "crewai-dbos workers --db-url sqlite:///app.sqlite",
    "demo": "crewai-dbos demo --keep",
    "doctor": "crewai-dbos doctor app:crew",
    "crashtest": 'crewai-dbos crashtest app:crew --inputs \'{"inputs": {"topic": "tea"}}\'',
    "inbox": "crewai-dbos inbox --db-url sqlite:///app.sqlite",
    "inbox list": "crewai-dbos inbox list --audience support",
    "inbox show": "crewai-dbos inbox show 1f9c",
    "inbox approve": 'crewai-dbos inbox approve 1f9c --arguments \'{"to": "bob@example.org"}\'',
    "inbox reject": 'crewai-dbos inbox reject 1f9c --why "The customer has called it off."',
    "inbox feedback": 'crewai-dbos inbox feedback 1f9c "Shorter, and without the prices."',
    "inbox reply": 'crewai-dbos inbox reply 1f9c "12-A"',
    "runs kickoff": 'crewai-dbos runs kickoff research --inputs \'{"topic": "tea"}\' --id tea',
    "runs list": "crewai-dbos runs list --definition research --state failed --since 2h",
    "runs stranded": "crewai-dbos runs stranded",
    "runs show": "crewai-dbos runs show order-12",
    "runs watch": "crewai-dbos runs watch order-12",
    "runs prune": "crewai-dbos runs prune --older-than 30d --dry-run",
    "runs cancel": 'crewai-dbos runs cancel order-12 order-13 --reason "Called off" --by ann',
    "runs resume": "crewai-dbos runs resume order-12 order-13 --timeout 600",
    "runs move": "crewai-dbos runs move order-12 order-13 --version 2",
    "runs fork": "crewai-dbos runs fork order-12 --at task:write --dry-run",
    "runs events": "crewai-dbos runs events order-12 --follow",
    "runs cost": "crewai-dbos runs cost order-12",
    "runs raise-budget": "crewai-dbos runs raise-budget order-12 --tokens 100000",
}


def example(command: str) -> str:
    """What stands at the end of the help of a command.

    Args:
        command: Its name, with that of its group.
    """
    return f"Example: {_EXAMPLES[command]}"
