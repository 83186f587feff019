"""Many workers on Ray. Thin: no method knows of it."""
