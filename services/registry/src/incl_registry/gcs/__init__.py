"""The artifact store in Cloud Storage. Imported only where it is chosen: the provider's library is not small."""
