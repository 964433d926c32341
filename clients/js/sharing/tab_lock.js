// The lock that a tab has for as long as it lives.

export const tabLock = (name, id) => `${name}:${id}`;
