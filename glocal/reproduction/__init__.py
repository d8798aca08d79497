"""A printed table, or a study of our own, pretrained row by row and measured by the rows' own protocols."""
