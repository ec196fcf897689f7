"""The pages that a person looks at: self-contained HTML, nothing loaded from outside."""
