"""The plugins that come with the harness, installed as `harness_plugins`."""

if __name__ != "harness_plugins":
    # A second copy under the name `plugins` would make every class exist twice, and isinstance checks lie.
    raise ImportError("import `harness_plugins`, not `plugins` (install with: pip install -e .)")
