"""SceneBench and the tables of docs/bench. A bench is a class in a module of its name; `runner` has the spine."""
