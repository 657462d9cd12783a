"""The chat on a terminal: the line editor, answers as Markdown, slash commands, and their loop."""
