"""The project's tests; docs/ARCHITECTURE.md says what each folder proves."""
