"""What the VMs of the fake cloud run on: namespaces, process groups, or nothing."""
