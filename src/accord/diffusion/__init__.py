"""The only place that touches the inside of diffusers: pipelines, the sampling loop, attention."""
