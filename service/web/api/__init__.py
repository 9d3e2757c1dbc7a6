"""The handlers: each reads a checked request, asks a stage or the store, and shows what came of it."""
