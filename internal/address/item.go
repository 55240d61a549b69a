package address

// ItemEnd finds the comma that ends the first item of a list, or its end. A comma inside double quotes, where a backslash takes the next character as it is, ends
// nothing; open reports a quote that is not closed.
func ItemEnd(list string) (end int, open bool) {
	for i := 0; i < len(list); i++ {
		switch c := list[i]; {
		case c == '"':
			open = !open
		case c == '\\' && open:
			i++
		case c == ',' && !open:
			return i, false
		}
	}
	return len(list), open
}
