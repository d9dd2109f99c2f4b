module pillion.test/load

go 1.24
