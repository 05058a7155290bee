"""Store artefacts by key: in a local folder, and in a store that machines share; collect their garbage."""
