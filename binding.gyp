{
  "targets": [{
    "target_name": "terabag",
    "type": "none",
    "actions": [{
      "action_name": "cmake",
      "inputs": [],
      "outputs": ["cmake-decides-what-is-stale"],
      "action": ["node", "scripts/install.mjs"]
    }]
  }]
}
