"""The config system: YAML, configs, registries and the schema. It knows nothing of networks."""
