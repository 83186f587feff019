"""SceneBench and the tables of docs/bench."""
