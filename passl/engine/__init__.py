"""One run: check, train, evaluate, save, resume. Importing this does not import paddle."""
