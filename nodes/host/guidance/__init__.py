"""What happens while sampling besides masks: where words look, and concepts that are kept to their own regions."""
