"""What the HTML report holds besides figures: pages of tables and documents, and where the runs come from."""
