"""Data sources. A source knows no family and no judge: it opens into `jensen.data.dataset.Data`."""
