pub fn copy() {}
