"""What tests and benchmarks of the provisioner need: a scripted agent that runs nothing."""
