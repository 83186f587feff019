"""Edits of pictures and videos on any opened pipeline: exact inversion, FlowEdit, injected attention."""
