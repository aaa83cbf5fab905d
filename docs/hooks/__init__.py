"""What MkDocs calls while it builds the pages (`hooks` in mkdocs.yml), in parts that tests can import."""
