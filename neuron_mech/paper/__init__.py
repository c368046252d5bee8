"""What the paper shows and claims: figures, videos, verdicts and the report."""
