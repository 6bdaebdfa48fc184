// SPDX-License-Identifier: Apache-2.0
"use strict";

// Replaces the content of the page by that of a new request, while the page is visible and no
// text is selected.
const interval = 5000;

async function update() {
	try {
		const response = await fetch("/", {cache: "no-store"});
		if (!response.ok) {
			throw new Error(response.statusText);
		}
		const next = new DOMParser().parseFromString(await response.text(), "text/html");
		document.querySelector("main").replaceWith(next.querySelector("main"));
		document.body.classList.remove("stale");
	} catch (error) {
		document.body.classList.add("stale");
	}
}

setInterval(() => {
	if (!document.hidden && getSelection().isCollapsed) {
		update();
	}
}, interval);
