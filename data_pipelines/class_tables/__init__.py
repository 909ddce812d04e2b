"""Class tables of datasets with many classes, one module per dataset."""
