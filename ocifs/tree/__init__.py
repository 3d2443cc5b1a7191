"""The merged tree while it is being built: nodes, whiteouts, and the rules that apply a layer."""
