"""A light load: callers and a model service in one process, lean enough not to be the limit themselves."""
