"""What a person looks at: tables, pictures, documents. Reads records and the store, runs nothing, imports no torch."""
