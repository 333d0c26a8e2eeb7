// SPDX-License-Identifier: Apache-2.0
/* The least that a plugin can be: a process that starts and ends. */
int main(void) { return 0; }
