"""What a run looks like: tables in text, pictures, and a page of HTML with both."""
