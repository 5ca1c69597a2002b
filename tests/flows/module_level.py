"""A module as a user writes it: the flow is built when it is imported, which starts threads."""

from crewai_dbos import DBOSFlow
from flows.scenarios import Loop

flow = DBOSFlow(flow_name="module level", orig_flow=Loop)
